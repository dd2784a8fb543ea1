import type { TranslationBundle } from '@jupyterlab/translation';
import { VDomRenderer } from '@jupyterlab/ui-components';
import React from 'react';
import { diffIcon } from '../../components/icons';
import { DiffBody } from './body';
import type { DiffModel } from './model';

/**
 * What is different between two moments, in the main area.
 */
export class DiffView extends VDomRenderer<DiffModel> {
  constructor(model: DiffModel, trans: TranslationBundle) {
    super(model);
    this._trans = trans;
    this.id = `jp-vsandbox-diff-${model.sandbox}`;
    this.title.label = trans.__('Differences');
    this.title.icon = diffIcon;
    this.title.closable = true;
    this.addClass('jp-VSandbox-diff');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Differences'));
    this.node.tabIndex = 0;
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    const { model } = this;
    super.dispose();
    model.dispose();
  }

  protected override render(): React.ReactElement {
    return <DiffBody model={this.model} trans={this._trans} />;
  }

  private readonly _trans: TranslationBundle;
}
