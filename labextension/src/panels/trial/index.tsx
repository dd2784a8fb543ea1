import type { IOutput } from '@jupyterlab/nbformat';
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, VDomRenderer } from '@jupyterlab/ui-components';
import { Panel } from '@lumino/widgets';
import React from 'react';
import { snapshotIcon } from '../../components/icons';
import type { ITrialCell } from '../../tokens';
import { TrialBody } from './body';
import type { TrialModel } from './model';

/**
 * A try of an upgrade in the main area: what it prints, then the outputs that changed side by side.
 */
export class TrialView extends Panel {
  constructor(
    model: TrialModel,
    rendermime: IRenderMimeRegistry,
    trans: TranslationBundle
  ) {
    super();
    this._model = model;
    this._rendermime = rendermime;
    this._trans = trans;
    this.title.label = trans.__('Try: %1', model.command);
    this.title.caption = model.command;
    this.title.icon = snapshotIcon;
    this.title.closable = true;
    this.addClass('jp-VSandbox-trial');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Try an upgrade'));
    this.node.tabIndex = 0;
    this.addWidget(new Head(model, trans));
    model.stateChanged.connect(this._onState, this);
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._model.dispose();
    super.dispose();
  }

  private _onState(): void {
    const cells = this._model.trial?.cells;
    if (cells && !this._shown) {
      this._shown = true;
      cells.forEach(cell => {
        this.addWidget(this._cell(cell));
      });
    }
  }

  private _cell(cell: ITrialCell): Panel {
    const trans = this._trans;
    const panel = new Panel();
    panel.addClass('jp-VSandbox-trialCell');
    panel.addWidget(
      ReactWidget.create(
        <div>
          <h3>{trans.__('Cell %1', cell.number)}</h3>
          <pre className="jp-VSandbox-lines">{cell.source}</pre>
        </div>
      )
    );
    const sides = new Panel();
    sides.addClass('jp-VSandbox-sides');
    sides.addWidget(this._side(trans.__('Before'), cell.old));
    sides.addWidget(this._side(trans.__('After'), cell.new));
    panel.addWidget(sides);
    return panel;
  }

  private _side(title: string, outputs: readonly object[]): Panel {
    const side = new Panel();
    side.node.setAttribute('role', 'group');
    side.node.setAttribute('aria-label', title);
    side.addWidget(ReactWidget.create(<h4>{title}</h4>));
    const values = outputs as IOutput[];
    side.addWidget(
      new SimplifiedOutputArea({
        model: new OutputAreaModel({ values, trusted: false }),
        rendermime: this._rendermime
      })
    );
    return side;
  }

  private readonly _model: TrialModel;
  private readonly _rendermime: IRenderMimeRegistry;
  private readonly _trans: TranslationBundle;
  private _shown = false;
}

class Head extends VDomRenderer<TrialModel> {
  constructor(model: TrialModel, trans: TranslationBundle) {
    super(model);
    this._trans = trans;
  }

  protected override render(): React.ReactElement {
    return <TrialBody model={this.model} trans={this._trans} />;
  }

  private readonly _trans: TranslationBundle;
}
