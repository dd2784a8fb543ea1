import React from 'react';
import type { IPanelContext } from '../section';
import { Section } from '../section';
import { StoreView } from '../view';
import { SandboxesBody } from './body';

/**
 * All sandboxes of this user.
 */
export class SandboxesSection extends Section<StoreView> {
  constructor(context: IPanelContext) {
    super(
      new StoreView(context.store, [
        'sandboxes',
        'usages',
        'operations',
        'connection'
      ]),
      context,
      { id: 'sandboxes', label: context.trans.__('Sandboxes') }
    );
    // Which one is that of the notebook in front.
    context.model.stateChanged.connect(this.update, this);
  }

  protected override render(): React.ReactElement {
    return <SandboxesBody store={this.model.store} context={this.context} />;
  }
}
